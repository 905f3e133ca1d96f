-- Posts the documented extraction, 393 bytes, with a job id that no other request has.
local body = '{"job_id":"%s","data":{"id":"%s","type":"extract","status":"completed","result":{' ..
    '"model":"qomplement-OCR-v1","document_type":"invoice","language":"en","confidence":95,"fields":{' ..
    '"invoice_number":"INV-2025-001234","total_amount":"1500.50","vendor_name":"ABC Corp"},"tables":[],' ..
    '"pages_processed":12,"processing_time_ms":45000}}}'
local count, salt

function init()
    math.randomseed(os.time())
    count, salt = 0, math.random(0, 0xffff)
    wrk.method = "POST"
    wrk.headers["content-type"] = "application/json"
end

function request()
    count = count + 1
    local id = string.format("550e8400-e29b-41d4-%04x-%012x", salt, count)
    return wrk.format(nil, nil, nil, string.format(body, id, id))
end

local failed = 0

function response(status)
    if status ~= 200 then failed = failed + 1 end
end

function done(summary)
    io.write(string.format("requests %d\nfailed %d\n", summary.requests, summary.errors.status + failed))
end
