-- Takes, keeps or gives back the lock of a tenant's maintenance, and keeps notes for whoever has it.
-- KEYS: lock, notes
-- ARGV: holder; the lock's time to live in ms, 0 to give it back; that of the notes; then pairs of field and note,
--       an empty one to strike the field out
-- Returns nothing if the lock is the holder's, else who has it and how many ms are left: then nothing was written.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {holder, redis.call('PTTL', KEYS[1])}
end
for place = 4, #ARGV, 2 do
  if ARGV[place + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[place])
  else
    redis.call('HSET', KEYS[2], ARGV[place], ARGV[place + 1])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return {}
