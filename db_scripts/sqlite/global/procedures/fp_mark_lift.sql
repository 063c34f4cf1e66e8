-- purpose: Lift the mark of a database that came back older; it never falls, so servers that find out together agree.
-- params: number, generation
-- returns:
INSERT INTO database_mark (id, number, generation) VALUES (1, :number, :generation)
ON CONFLICT (id) DO UPDATE SET
    number = MAX(number, excluded.number), generation = MAX(generation, excluded.generation);
