-- Lists a page of the keys on the server that has a key, and tells which server that is.
-- KEYS: any key of the server
-- ARGV: nothing; or cursor, pattern and about how many keys to look at
-- Returns the server's run id, which a restart changes, then how many keys it has; or next cursor and keys
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if not ARGV[1] then
  return {run_id, redis.call('DBSIZE')}
end
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
return {run_id, page[1], page[2]}
