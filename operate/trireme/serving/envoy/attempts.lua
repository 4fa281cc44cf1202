-- Counts how often a request was sent to a process that was lost with it, and ends it before it is sent once too often.
-- Runs before each attempt but the first.
--
-- All attempts of a request share its headers and its metadata. When a connection to a replica stands, Envoy rewrites
-- :authority and appends the one before to x-forwarded-host (auto_host_rewrite): so many names, so many attempts were
-- sent. x-trireme-connected is there where that has already happened for the attempt that is about to begin.

-- The attempt, and one more on another replica.
local MOST_LOST = 2
-- So the caller, Envoy and the router tell each other that a request has been sent as often as that.
local NOT_AGAIN = "not sent again: "

function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local attempt, now = headers:get("x-envoy-attempt-count"), handle:timestamp()
  if attempt ~= "1" then
    local _, sent = (headers:get("x-forwarded-host") or ""):gsub("[^,]+", "")
    if headers:get("x-trireme-connected") then sent = sent - 1 end
    -- What the caller lost before.
    local before = tonumber(headers:get("x-trireme-lost") or 0) or 0
    local known = metadata:get("trireme") or {}
    -- One that is asked because the one before it is late is no sign that anything was lost.
    local patience = tonumber(headers:get("x-trireme-patience-ms") or nil)
    local late = patience and known.at and now - known.at >= patience
    if not late and before + sent - (known.spared or 0) >= MOST_LOST then
      local reason = known.reason or "the connection ended"
      if not reason:find(NOT_AGAIN, 1, true) then
        reason = NOT_AGAIN .. "this request was lost with " .. MOST_LOST .. " processes; the last one: " .. reason
      end
      return handle:respond({[":status"] = "503"}, reason)
    end
    -- Each connection must add a name, also where replicas share one.
    headers:replace(":authority", "attempt-" .. attempt)
  end
  metadata:set("trireme", "at", now)
end
