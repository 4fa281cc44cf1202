-- Counts how often a request may have reached a process that was lost with it, and tells what Triton's failures mean.
-- Runs at every attempt, before Envoy decides whether there is another one.
--
-- All attempts of a request share its headers and its metadata. When a connection to a replica stands, Envoy rewrites
-- :authority and appends the one before to x-forwarded-host (auto_host_rewrite): so many names, so many attempts were
-- sent. x-trireme-connected is there where that has already happened for the attempt that is about to begin.

-- The attempt, and one more on another replica.
local MOST_LOST = 2
-- Who has sent a request as often as that says so: this script, and the router of its variants.
local NOT_AGAIN = "not sent again: "
-- What tritonserver says of a model whose process has died: "Stub process 'm_0' is not healthy."
local DEAD_PROCESS = "Stub process"
-- How tritonserver begins to say, as INTERNAL, that it cannot read a request.
local MISTAKES = {"failed to parse the request JSON buffer", "Unable to parse", "Unable to set", "failed to get request params"}

local function known(handle)
  return handle:streamInfo():dynamicMetadata():get("trireme") or {}
end

local function note(handle, key, value)
  handle:streamInfo():dynamicMetadata():set("trireme", key, value)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  -- What the caller counted before, which is only sent once more then.
  local before = tonumber(headers:get("x-trireme-lost") or 0) or 0
  local attempt = headers:get("x-envoy-attempt-count")
  if attempt == "1" and before == 0 then return end
  local now = handle:timestamp()
  if attempt ~= "1" then
    local _, sent = (headers:get("x-forwarded-host") or ""):gsub("[^,]+", "")
    if headers:get("x-trireme-connected") then sent = sent - 1 end
    local state = known(handle)
    -- One that is asked because the one before it is late is no sign that anything was lost.
    local patience = tonumber(headers:get("x-trireme-patience-ms") or nil)
    local late = patience and state.at and now - state.at >= patience
    if not late and before + sent - (state.spared or 0) >= MOST_LOST then
      local reason = state.reason or "the connection ended"
      if not reason:find(NOT_AGAIN, 1, true) then
        reason = NOT_AGAIN .. "this request was lost with " .. MOST_LOST .. " processes; the last one: " .. reason
      end
      return handle:respond({[":status"] = "503"}, reason)
    end
    -- Each connection must add a name, also where replicas share one.
    headers:replace(":authority", "attempt-" .. attempt)
  end
  note(handle, "at", now)
end

-- Of an attempt that was lost with a model's process: Envoy tries again because of the header.
local function note_lost(handle, headers, reason)
  headers:replace("x-trireme-lost", "1")
  note(handle, "reason", reason)
  if reason:find(NOT_AGAIN, 1, true) then note(handle, "spared", -MOST_LOST) end
end

-- Of an attempt that surely did nothing.
local function note_spared(handle)
  note(handle, "spared", (known(handle).spared or 0) + 1)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if status == "200" then
    local code = headers:get("grpc-status")
    if not code or code == "0" then return end
    local message = headers:get("grpc-message") or ""
    if message:find(DEAD_PROCESS, 1, true) then
      note_lost(handle, headers, message)
    elseif code == "14" then
      note_spared(handle)
    end
  elseif status == "500" then
    local body = handle:body()
    -- Waiting for the body makes what was taken before it invalid.
    headers = handle:headers()
    local text = body and body:getBytes(0, body:length()) or ""
    local sentence = text:match('^{"error":%s*"(.*)"}%s*$') or text
    if sentence:find(DEAD_PROCESS, 1, true) then
      return note_lost(handle, headers, sentence)
    end
    for _, mistake in ipairs(MISTAKES) do
      if sentence:sub(1, #mistake) == mistake then return headers:replace(":status", "400") end
    end
  elseif status == "502" or status == "503" or status == "504" then
    note_spared(handle)
  end
end
