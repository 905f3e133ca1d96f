-- Posts the documented extraction, 393 bytes, or with a megabyte of tables if LARGE is set, with a job id that
-- no other request has.
local body = '{"job_id":"%s","data":{"id":"%s","type":"extract","status":"completed","result":{' ..
    '"model":"qomplement-OCR-v1","document_type":"invoice","language":"en","confidence":95,"fields":{' ..
    '"invoice_number":"INV-2025-001234","total_amount":"1500.50","vendor_name":"ABC Corp"},"tables":[],' ..
    '"pages_processed":12,"processing_time_ms":45000}}}'
local row = '{"position":7,"description":"Part no. 7, galvanised, with two washers and a split pin","quantity":3,' ..
    '"unit_price":"7.07","taxable":false}'
if os.getenv("LARGE") then
    local rows = {}
    for i = 1, math.floor((1048576 - #body) / (#row + 1)) do rows[i] = row end
    body = body:gsub('"tables":%[%]', function() return '"tables":[' .. table.concat(rows, ",") .. "]" end)
end
-- Cut at the two ids: formatting a megabyte would cost wrk more than sending it.
local head, middle, tail = body:match("^(.-)%%s(.-)%%s(.*)$")
local count, salt

function init()
    math.randomseed(os.time())
    count, salt = 0, math.random(0, 0xffff)
    wrk.method = "POST"
    wrk.headers["content-type"] = "application/json"
end

function request()
    count = count + 1
    -- Not in the order of arrival, as those of jobs are not.
    local mixed = count * 0x9e3779b1 % 0x100000000
    local id = string.format("%08x-e29b-41d4-%04x-%012x", mixed, salt, count)
    return wrk.format(nil, nil, nil, head .. id .. middle .. id .. tail)
end

local failed = 0

function response(status)
    if status ~= 200 then failed = failed + 1 end
end

function done(summary)
    io.write(string.format("requests %d\nfailed %d\n", summary.requests, summary.errors.status + failed))
end
