-- Counts how many processes were lost while executing a request, and rejects the attempt that would exceed the limit.
-- Runs before each attempt except the first.
--
-- All attempts of a request share its headers and its metadata. Once a connection to a replica is established, Envoy
-- rewrites :authority and appends the previous value to x-forwarded-host (auto_host_rewrite), so the number of names is
-- the number of attempts sent. x-trireme-connected is set if this has already happened for the attempt that is about to
-- begin.

-- The first attempt and one retry on another replica.
local MAX_LOST = 2
-- The client, Envoy and the router all use this error prefix, and none of them retries an error with it.
local NOT_AGAIN = "not sent again: "

function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local attempt, now = headers:get("x-envoy-attempt-count"), handle:timestamp()
  if attempt ~= "1" then
    local _, sent = (headers:get("x-forwarded-host") or ""):gsub("[^,]+", "")
    if headers:get("x-trireme-connected") then sent = sent - 1 end
    -- Losses counted by the caller.
    local before = tonumber(headers:get("x-trireme-lost") or 0) or 0
    local counted = metadata:get("trireme") or {}
    -- A hedging attempt does not imply that the previous attempt was lost.
    local hedge_delay_ms = tonumber(headers:get("x-trireme-patience-ms") or nil)
    local hedges = hedge_delay_ms and counted.sent_at and now - counted.sent_at >= hedge_delay_ms
    if not hedges and before + sent - (counted.not_executed or 0) >= MAX_LOST then
      local reason = counted.reason or "the connection ended"
      if not reason:find(NOT_AGAIN, 1, true) then
        reason = NOT_AGAIN .. "this request was lost with " .. MAX_LOST .. " processes; the last one: " .. reason
      end
      return handle:respond({[":status"] = "503"}, reason)
    end
    -- Each connection must add a name, even if replicas share a host name.
    headers:replace(":authority", "attempt-" .. attempt)
  end
  metadata:set("trireme", "sent_at", now)
end
