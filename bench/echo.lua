-- The load of one wrk thread: a fresh random payload each request, and each answer compared.
--
-- An answer must be, byte for byte, what one of the payloads this thread has outstanding must give; it is then
-- outstanding no more, so that an answer given twice is found too. wrk does not say on which connection an answer came:
-- with one connection the check is exact, with more it cannot see two answers exchanged (exchange.py checks that apart).
-- Latency is from the built request to the answer, as it was: wrk's own figure is corrected for calls it never made.

local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } bench_time;
int clock_gettime(int clock, bench_time *time);
]]

local CLOCK_MONOTONIC = 1
local time = ffi.new("bench_time")
local random, hex, floor = math.random, string.format, math.floor

local head = os.getenv("BENCH_HEAD") -- request line, header and the body up to the token
local tail = os.getenv("BENCH_TAIL")
local answer_head = os.getenv("BENCH_ANSWER_HEAD")
local answer_tail = os.getenv("BENCH_ANSWER_TAIL")

local outstanding = {} -- the answer that must come -> when its request was built, microseconds

-- read by done(), hence global
answers = 0
wrong = 0
first_wrong = ""
histogram = {} -- tenths of a microsecond (whole microseconds from a millisecond on) -> answers

local function now_us()
    ffi.C.clock_gettime(CLOCK_MONOTONIC, time)
    return tonumber(time.seconds) * 1e6 + tonumber(time.nanoseconds) / 1e3
end

local threads = {}

function setup(thread)
    threads[#threads + 1] = thread
    thread:set("seed", tonumber(os.getenv("BENCH_SEED")) + #threads)
end

function init()
    math.randomseed(seed)
end

function request()
    local token = hex("%08x%08x%08x%08x%08x%08x", random(0, 4294967295), random(0, 4294967295),
        random(0, 4294967295), random(0, 4294967295), random(0, 4294967295), random(0, 4294967295))
    outstanding[answer_head .. token .. answer_tail] = now_us()
    return head .. token .. tail
end

function response(status, headers, body)
    local now = now_us()
    local since = outstanding[body]
    if status == 200 and since then
        outstanding[body] = nil
        answers = answers + 1
        local us = now - since
        local bin = us < 1000 and floor(us * 10) or floor(us) * 10
        histogram[bin] = (histogram[bin] or 0) + 1
    else
        wrong = wrong + 1
        if wrong == 1 then
            first_wrong = status .. " " .. body:sub(1, 300)
        end
    end
end

-- One line a fact, for load.py: the last of what wrk prints.
function done(summary)
    local errors = summary.errors
    print(("\nbench seconds %.6f"):format(summary.duration / 1e6))
    print(("bench errors %d"):format(errors.connect + errors.read + errors.write + errors.timeout))
    for _, thread in ipairs(threads) do
        print(("bench answers %d"):format(thread:get("answers")))
        print(("bench wrong %d"):format(thread:get("wrong")))
        if thread:get("wrong") > 0 then
            print("bench first_wrong " .. thread:get("first_wrong"):gsub("%c", " "))
        end
        for bin, count in pairs(thread:get("histogram")) do
            print(("bench latency %d %d"):format(bin, count))
        end
    end
end
