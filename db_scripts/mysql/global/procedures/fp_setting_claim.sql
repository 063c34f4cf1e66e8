-- purpose: Store a shared value unless there is one; answers the value that counts.
-- params: name, value
-- returns: value
CREATE PROCEDURE fp_setting_claim(
    IN p_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_value VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
)
MODIFIES SQL DATA
BEGIN
    INSERT INTO settings (name, value) VALUES (p_name, p_value) ON DUPLICATE KEY UPDATE name = settings.name;

    SELECT value FROM settings WHERE name = p_name;
END
