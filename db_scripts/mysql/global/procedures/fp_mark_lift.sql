-- purpose: Lift the mark of a database that came back older; it never falls, so servers that find out together agree.
-- params: number, generation
-- returns:
CREATE PROCEDURE fp_mark_lift(
    IN p_number BIGINT,
    IN p_generation BIGINT
)
MODIFIES SQL DATA
INSERT INTO database_mark (id, number, generation) VALUES (1, p_number, p_generation)
ON DUPLICATE KEY UPDATE
    number = GREATEST(number, VALUES(number)), generation = GREATEST(generation, VALUES(generation))
