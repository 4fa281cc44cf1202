-- Checks the body of an HTTP inference request before Triton reads it. Rejects bodies that would crash Triton or be
-- decoded incorrectly. Triton reports all other errors itself; see failures.lua.

-- JSON nested about ten thousand levels deep crashes tritonserver 24.10. Tensors have few dimensions.
local MAX_DEPTH = 64
local QUOTE, BACKSLASH, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT = 34, 92, 91, 93, 123, 125
local byte, find, sub = string.byte, string.find, string.sub

-- The length in bytes of the UTF-8 character at `at`; nil if invalid (RFC 3629).
local function character_length(text, at)
  local first, second = byte(text, at, at + 1)
  local length, least, most = nil, 0x80, 0xbf
  if first >= 0xc2 and first <= 0xdf then
    length = 2
  elseif first >= 0xe0 and first <= 0xef then
    length = 3
    if first == 0xe0 then least = 0xa0 elseif first == 0xed then most = 0x9f end
  elseif first >= 0xf0 and first <= 0xf4 then
    length = 4
    if first == 0xf0 then least = 0x90 elseif first == 0xf4 then most = 0x8f end
  else
    return nil
  end
  if not second or second < least or second > most then return nil end
  for offset = 2, length - 1 do
    local following = byte(text, at + offset)
    if not following or following < 0x80 or following > 0xbf then return nil end
  end
  return length
end

-- The value of "sequence_id" as written in the JSON text; `at` is the position after that name.
local function sequence_id(text, at)
  local number = text:match("^%s*:%s*(%d+)", at)
  if number then return number ~= "0" and number or nil end
  return text:match('^%s*:%s*"([^"]+)"', at)
end

-- The charset of a content type; nil if absent or compatible with UTF-8.
local function other_charset(content_type)
  local charset = (content_type or ""):lower():match("charset%s*=%s*\"?([^\";%s]+)")
  return charset ~= "utf-8" and charset ~= "utf8" and charset ~= "us-ascii" and charset or nil
end

-- Returns the problem of a request's JSON, or nil and its sequence id, if any. Triton checks the JSON syntax.
local function check_json(text, charset)
  local depth, at, length = 0, 1, #text
  local in_parameters, sequence = false, nil
  while at <= length do
    local here = byte(text, at)
    if here == QUOTE then
      local from = at + 1
      at = from
      while true do
        here = byte(text, at)
        if here == QUOTE or not here then break end
        if here == BACKSLASH then
          at = at + 2
        elseif here < 0x80 then
          at = at + 1
        elseif charset then
          return "Content-Type: charset '" .. charset .. "' is not supported; encode the JSON as UTF-8"
        else
          local bytes = character_length(text, at)
          if not bytes then
            return "body: byte " .. at - 1 .. " is not UTF-8; encode the JSON as UTF-8, and send bytes as binary data"
          end
          at = at + bytes
        end
      end
      if depth == 1 and at - from == 10 and sub(text, from, at - 1) == "parameters" then
        in_parameters = find(text, "^%s*:%s*{", at + 1) ~= nil
      elseif in_parameters and depth == 2 and at - from == 11 and sub(text, from, at - 1) == "sequence_id" then
        sequence = sequence or sequence_id(text, at + 1)
      end
    elseif here == OPEN_LIST or here == OPEN_OBJECT then
      depth = depth + 1
      if depth > MAX_DEPTH then
        return "body: JSON is nested deeper than " .. MAX_DEPTH .. " levels; flatten it"
      end
    elseif here == CLOSE_LIST or here == CLOSE_OBJECT then
      depth = depth - 1
      if depth == 1 then in_parameters = false end
    elseif here >= 0x80 and at > 3 then
      -- The text may begin with a byte order mark.
      return "body: byte " .. at - 1 .. " is not JSON; put names and strings in quotes"
    end
    at = at + 1
  end
  return nil, sequence
end

-- Returns the length of the JSON in the body, before binary tensors; or nil and the problem.
local function json_length(headers, size)
  local declared = headers:get("inference-header-content-length")
  if not declared then return size end
  local number = declared:match("^%d+$") and tonumber(declared)
  if not number then
    return nil, "Inference-Header-Content-Length: '" .. declared .. "' is not a number; set it to the bytes of JSON"
  end
  if number > size then
    return nil, "Inference-Header-Content-Length: " .. declared .. " exceeds the body's " .. size .. " bytes"
  end
  return number
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local function reject(status, message)
    handle:respond({[":status"] = status}, message)
  end
  local encoding = headers:get("content-encoding")
  if encoding and encoding ~= "identity" then
    return reject("415", "Content-Encoding: '" .. encoding .. "' is not supported; send the body uncompressed")
  end
  if headers:get(":method") ~= "POST" then return end
  local body = handle:body()
  -- Waiting for the body invalidates the headers read before it.
  headers = handle:headers()
  local size = body and body:length() or 0
  local length, problem = json_length(headers, size)
  if not length then return reject("400", problem) end
  if size == 0 and not headers:get("inference-header-content-length") then
    return reject("400", "body: it is empty; send the inference request as a JSON object")
  end
  if length == 0 then return end
  local invalid, sequence = check_json(body:getBytes(0, length), other_charset(headers:get("content-type") or nil))
  if invalid then return reject("400", invalid) end
  if sequence and not headers:get("x-trireme-sequence") then
    headers:add("x-trireme-sequence", (sequence:gsub("[^\33-\126]", function(c) return ("%%%02X"):format(byte(c)) end)))
    handle:clearRouteCache()
  end
end
