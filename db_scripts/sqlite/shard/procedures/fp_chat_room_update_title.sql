-- purpose: Rename a live room, if title_version is newer than the stored one.
-- params: room_id, account_db_key, title, title_version
-- returns:
UPDATE chat_rooms SET title = :title, title_version = :title_version
WHERE room_id = :room_id AND account_db_key = :account_db_key AND deleted = 0 AND title_version < :title_version;
