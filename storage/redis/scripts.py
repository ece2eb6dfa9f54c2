"""What Redis does in one step. Written for Redis 7 and Valkey 7.2 or newer."""

from storage.redis.connection import Script

APPEND = Script("""
-- Accept changes, each by itself: all of it or nothing.
-- KEYS: meta log marks claims voids known probe
-- ARGV: epoch, space, seconds a key is remembered, the latest position seen, then for each entry
-- order, version, seen, details, payload, value
-- Without entries something is written that changes nothing: to see whether changes would be accepted.
-- (without an order, the version is the position that the database is known to have reached)
-- details: nothing, or \\30 between the scope, claims (\\31 between them), releases and a forgotten order
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'head', 'floor')
if meta[1] ~= ARGV[1] then return {'epoch'} end
local head, floor = tonumber(meta[2]), tonumber(meta[3])
if tonumber(ARGV[4]) > head then return {'lost', head} end
if #ARGV == 4 then redis.call('SET', KEYS[7], '', 'EX', 1) end
local first = head
local space, keep = ARGV[2], ARGV[3]
local results, orders, marks = {}, {}, {}
for at = 5, #ARGV, 6 do
    local order = ARGV[at]
    if order ~= '' and marks[order] == nil then
        orders[#orders + 1] = order
        marks[order] = false
    end
end
if #orders > 0 then
    for at, mark in ipairs(redis.call('HMGET', KEYS[3], unpack(orders))) do marks[orders[at]] = mark end
end
local changed, values = {}, {}
for at = 5, #ARGV, 6 do
    local order, details = ARGV[at], ARGV[at + 3]
    local version, seen = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local scope, claims, releases, forgotten = '', '', '', ''
    if details ~= '' then
        scope, claims, releases, forgotten =
            string.match(details, '^([^\\30]*)\\30([^\\30]*)\\30([^\\30]*)\\30(.*)$')
    end
    local verdict
    if seen < floor then
        verdict = 'behind ' .. floor
    elseif scope ~= '' and (redis.call('EXISTS', space .. 'key:' .. scope) == 1
            or redis.call('SISMEMBER', KEYS[6], scope) == 1) then
        verdict = 'answered'
    elseif marks[order] then
        local known, n = string.match(marks[order], '^(%d+) (%d+)$')
        if tonumber(known) + 1 ~= version or tonumber(n) > seen then verdict = 'superseded ' .. n end
    end
    if not verdict and claims ~= '' then
        for claim in string.gmatch(claims, '[^\\31]+') do
            local held = redis.call('HGET', KEYS[4], claim)
            local owner = held and string.match(held, '^%d+ (.*)$')
            if owner and owner ~= '' and owner ~= order then
                verdict = 'claimed ' .. claim .. '\\31' .. owner
                break
            end
        end
    end
    if verdict then
        results[#results + 1] = verdict
    else
        head = head + 1
        local payload = ARGV[at + 4]
        redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. head,
            'p', payload, 'o', order, 'c', claims .. '\\31' .. releases, 'f', forgotten)
        if order ~= '' then
            marks[order] = version .. ' ' .. head
            changed[#changed + 1] = order
            changed[#changed + 1] = marks[order]
            values[#values + 1] = space .. 'order:' .. order
            values[#values + 1] = ARGV[at + 5]
        end
        if scope ~= '' then
            redis.call('SET', space .. 'key:' .. scope, head .. ' ' .. payload, 'EX', keep)
        end
        if claims ~= '' or releases ~= '' then
            local owning = order ~= '' and order or 'another'
            for claim in string.gmatch(claims, '[^\\31]+') do
                redis.call('HSET', KEYS[4], claim, head .. ' ' .. owning)
            end
            for claim in string.gmatch(releases, '[^\\31]+') do
                redis.call('HSET', KEYS[4], claim, head .. ' ')
            end
        end
        if forgotten ~= '' then
            redis.call('HSET', KEYS[5], forgotten, head)
            local mark = marks[forgotten] or redis.call('HGET', KEYS[3], forgotten)
            local flushed = math.max(tonumber(redis.call('HGET', KEYS[1], 'flushed')), version)
            if not mark or tonumber(string.match(mark, ' (%d+)$')) <= flushed then
                redis.call('DEL', space .. 'order:' .. forgotten)
            end
        end
        results[#results + 1] = head
    end
end
if #changed > 0 then
    redis.call('HSET', KEYS[3], unpack(changed))
    redis.call('MSET', unpack(values))
end
if head > first then redis.call('HSET', KEYS[1], 'head', head) end
return {'done', results}
""")

FILL = Script("""
-- Offer orders that were read from the database. Never goes backwards.
-- KEYS: meta marks voids   ARGV: epoch, space, seconds to keep, then for each: order, version, seen, value
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'floor')
if meta[1] ~= ARGV[1] then return -1 end
local kept = 0
for at = 4, #ARGV, 4 do
    local order, version, seen = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local mark = redis.call('HGET', KEYS[2], order)
    local void = redis.call('HGET', KEYS[3], order)
    local known = redis.call('GETRANGE', ARGV[2] .. 'order:' .. order, 0, 20)
    local held = tonumber(string.match(known, '^1(%d+) ') or '0')
    if seen >= tonumber(meta[2])
            and not (mark and tonumber(string.match(mark, '^%d+')) > version)
            and not (void and tonumber(void) > seen)
            and held < version then
        redis.call('SET', ARGV[2] .. 'order:' .. order, ARGV[at + 3], 'EX', ARGV[3])
        kept = kept + 1
    end
end
return kept
""")

FLUSHED = Script("""#!lua flags=allow-oom
-- The database has the log up to a position: say so, let what it has expire, trim what is no longer needed.
-- KEYS: meta log flushed marks claims voids
-- ARGV: epoch, space, position, the position before with the refused ones, seconds to keep, entries to keep,
-- entries to trim, orders
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'head', 'flushed', 'floor')
if meta[1] ~= ARGV[1] then return -1 end
local upto, head, floor = tonumber(ARGV[3]), tonumber(meta[2]), tonumber(meta[4])
if upto > tonumber(meta[3]) then
    redis.call('HSET', KEYS[1], 'flushed', upto)
    redis.call('XADD', KEYS[3], 'MAXLEN', 64, ARGV[1] .. '-' .. upto, 'r', ARGV[4])
end
local orders = {unpack(ARGV, 8)}
if #orders > 0 then
    for at, mark in ipairs(redis.call('HMGET', KEYS[4], unpack(orders))) do
        if not mark or tonumber(string.match(mark, ' (%d+)$')) <= upto then
            redis.call('EXPIRE', ARGV[2] .. 'order:' .. orders[at], ARGV[5])
        end
    end
end
local last = math.min(upto, head - tonumber(ARGV[6]), floor + tonumber(ARGV[7]))
if last > floor then
    local latest, changed = {}, {}
    for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', ARGV[1] .. '-' .. last)) do
        local fields = entry[2]
        local order, claims, forgotten = fields[4], fields[6], fields[8]
        local n = string.match(entry[1], '%-(%d+)$')
        if order ~= '' then
            if not latest[order] then changed[#changed + 1] = order end
            latest[order] = n
        end
        if claims ~= '\\31' then
            for claim in string.gmatch(claims, '[^\\31]+') do
                local held = redis.call('HGET', KEYS[5], claim)
                if held and string.match(held, '^(%d+) ') == n then redis.call('HDEL', KEYS[5], claim) end
            end
        end
        if forgotten ~= '' and redis.call('HGET', KEYS[6], forgotten) == n then
            redis.call('HDEL', KEYS[6], forgotten)
        end
    end
    if #changed > 0 then
        for at, mark in ipairs(redis.call('HMGET', KEYS[4], unpack(changed))) do
            local order = changed[at]
            if mark and string.match(mark, ' (%d+)$') == latest[order] then
                redis.call('HDEL', KEYS[4], order)
                redis.call('EXPIRE', ARGV[2] .. 'order:' .. order, ARGV[5], 'NX')
            end
        end
    end
    redis.call('XTRIM', KEYS[2], 'MINID', ARGV[1] .. '-' .. (last + 1))
    redis.call('HSET', KEYS[1], 'floor', last)
end
return last
""")

BEGIN = Script("""
-- A new epoch of the log, unless another process has begun it.
-- KEYS: meta marks   ARGV: installation, epoch, run
local meta = redis.call('HMGET', KEYS[1], 'installation', 'epoch', 'run')
if meta[1] and meta[1] ~= ARGV[1] then return redis.error_reply('FOREIGN') end
if meta[1] and tonumber(meta[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'installation', ARGV[1], 'epoch', ARGV[2], 'run', ARGV[3],
    'head', 0, 'flushed', 0, 'floor', 0)
-- A short hash is a list that is searched. A value of more than 64 bytes makes it a table from the start.
redis.call('HSET', KEYS[2], '', string.rep(' ', 65))
return 1
""")
