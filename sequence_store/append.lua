-- Changes a member's ring, and writes the decision's log row to the outbox, if the ring is as the writer read it.
-- KEYS: ring, generation, outbox
-- ARGV: generation as read; first bytes of the ring as read, none if there was none or it was emptied; time to live in
--       ms, or nothing to keep it as it is; log row, or nothing; then pairs of offset and bytes, an offset of -1 for
--       the whole ring, which goes if it has no bytes
-- Returns 1 if all was written, 0 if the ring has changed and nothing was.
local ring, generation, expected = KEYS[1], ARGV[1], ARGV[2]
if (redis.call('GET', KEYS[2]) or '0') ~= generation then
  return 0
end
if expected ~= '' then
  -- All 29 bytes of a header, so that what is left of a cut ring is not taken for the beginning of another.
  if redis.call('GETRANGE', ring, 0, 28) ~= expected then
    return 0
  end
else
  -- A ring starts with its version in 1 byte and its generation in 4: one of another generation has been emptied.
  local found = redis.call('GETRANGE', ring, 0, 4)
  if found ~= '' and (#found < 5 or struct.unpack('>I4', found, 2) == tonumber(generation)) then
    return 0
  end
end
-- First what can fail (an outbox key of another type), so that a failure leaves nothing behind.
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[3], '*', 'r', ARGV[4])
end
for place = 5, #ARGV, 2 do
  if ARGV[place] ~= '-1' then
    redis.call('SETRANGE', ring, ARGV[place], ARGV[place + 1])
  elseif ARGV[place + 1] ~= '' then
    redis.call('SET', ring, ARGV[place + 1], 'KEEPTTL')
  else
    redis.call('UNLINK', ring)
  end
end
if ARGV[3] ~= '' then
  redis.call('PEXPIRE', ring, ARGV[3])
end
return 1
