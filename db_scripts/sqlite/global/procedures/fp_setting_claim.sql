-- purpose: Store a shared value unless there is one; answers the value that counts.
-- params: name, value
-- returns: value
INSERT INTO settings (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

SELECT value FROM settings WHERE name = :name;
