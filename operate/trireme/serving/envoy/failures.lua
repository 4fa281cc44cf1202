-- Classifies Triton's failures before Envoy decides whether to retry: invalid request, model with a dead process, model
-- not loaded on this replica, or attempt that was certainly not executed. See attempts.lua.

local NOT_AGAIN = "not sent again: "
-- tritonserver's error for a model whose process died: "Stub process 'm_0' is not healthy."
local DEAD_PROCESS = "Stub process"
-- Its error for a model that is not loaded, with NOT_FOUND or 404.
local NOT_LOADED = "Request for unknown model"
-- Its errors for a request that it cannot parse, with INTERNAL: "Unable to parse 'shape': attempt to access JSON
-- non-array as array".
local INVALID_REQUEST = {
  "failed to parse the request JSON buffer",
  "attempt to access JSON",
  "attempt to access non-existing object member",
  "attempt to get members",
}

local function mark_lost(handle, headers, reason)
  -- Envoy retries responses with this header.
  headers:replace("x-trireme-lost", "1")
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("trireme", "reason", reason)
  if reason:find(NOT_AGAIN, 1, true) then metadata:set("trireme", "not_executed", -1) end
end

local function count_not_executed(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("trireme", "not_executed", ((metadata:get("trireme") or {}).not_executed or 0) + 1)
end

-- Another replica may have loaded the model: retried once.
local function mark_not_loaded(handle, headers)
  local metadata = handle:streamInfo():dynamicMetadata()
  if (metadata:get("trireme") or {}).tried_elsewhere then return end
  metadata:set("trireme", "tried_elsewhere", true)
  count_not_executed(handle)
  headers:replace("x-trireme-lost", "1")
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(":status")
  if status == "200" then
    local code = headers:get("grpc-status")
    if not code or code == "0" then return end
    local message = headers:get("grpc-message") or ""
    if message:find(DEAD_PROCESS, 1, true) then
      mark_lost(handle, headers, message)
    elseif code == "5" and message:find(NOT_LOADED, 1, true) then
      mark_not_loaded(handle, headers)
    elseif code == "14" then
      count_not_executed(handle)
    end
  elseif status == "404" then
    mark_not_loaded(handle, headers)
  elseif status == "500" then
    local body = handle:body()
    -- Waiting for the body invalidates the headers read before it.
    headers = handle:headers()
    local text = body and body:getBytes(0, body:length()) or ""
    local message = text:match('^{"error":%s*"(.*)"}%s*$') or text
    if message:find(DEAD_PROCESS, 1, true) then return mark_lost(handle, headers, message) end
    for _, pattern in ipairs(INVALID_REQUEST) do
      if message:find(pattern, 1, true) then return headers:replace(":status", "400") end
    end
  elseif status == "502" or status == "503" or status == "504" then
    count_not_executed(handle)
  end
end
