-- Forgets fields of the registry, if it is as the caller read it.
-- KEYS: registry
-- ARGV: epoch as read; new epoch; fields
-- Returns 1 if they were forgotten, 0 if the registry has changed and nothing was.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], unpack(ARGV, 3))
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
return 1
