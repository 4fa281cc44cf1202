-- Checks the body of an HTTP inference before Triton reads it: refuses what Triton would die of, or would take for another
-- text than the caller meant. All other mistakes Triton reports itself, see failures.lua.

-- tritonserver 24.10 dies of JSON nested some ten thousand deep. Tensors have few dimensions.
local MAX_DEPTH = 64
local QUOTE, BACKSLASH, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT = 34, 92, 91, 93, 123, 125
local byte, find, sub = string.byte, string.find, string.sub

-- The number of bytes of the UTF-8 character that begins at `at`; nil where it is not one (RFC 3629).
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

-- The value of "sequence_id" as it is written in the JSON text, which is read from behind that name on.
local function sequence_id(text, at)
  local number = text:match("^%s*:%s*(%d+)", at)
  if number then return number ~= "0" and number or nil end
  return text:match('^%s*:%s*"([^"]+)"', at)
end

-- The charset of a content type, unless it is JSON's own.
local function foreign_charset(content_type)
  local charset = (content_type or ""):lower():match("charset%s*=%s*\"?([^\";%s]+)")
  return charset ~= "utf-8" and charset ~= "utf8" and charset ~= "us-ascii" and charset or nil
end

-- What is wrong with the JSON of a request, or nil; and the id of its sequence, if it has one. Whether it is valid JSON
-- Triton checks.
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
          return "Content-Type: charset '" .. charset .. "' is not read here; encode the JSON as UTF-8"
        else
          local bytes = character_length(text, at)
          if not bytes then
            return "the body: byte " .. at - 1 .. " is not UTF-8; encode the JSON as UTF-8, and send bytes as binary data"
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
        return "the body: JSON nested deeper than " .. MAX_DEPTH .. " levels; flatten it"
      end
    elseif here == CLOSE_LIST or here == CLOSE_OBJECT then
      depth = depth - 1
      if depth == 1 then in_parameters = false end
    elseif here >= 0x80 and at > 3 then
      -- The text may begin with a byte order mark.
      return "the body: byte " .. at - 1 .. " is not JSON; names and texts stand in quotes"
    end
    at = at + 1
  end
  return nil, sequence
end

-- The length of the JSON in the body, before binary tensors; or nil and what is wrong.
local function json_length(headers, size)
  local declared = headers:get("inference-header-content-length")
  if not declared then return size end
  local number = declared:match("^%d+$") and tonumber(declared)
  if not number then
    return nil, "Inference-Header-Content-Length: '" .. declared .. "' is not a number; give the bytes of JSON before the tensors"
  end
  if number > size then
    return nil, "Inference-Header-Content-Length: " .. declared .. " is more than the body's " .. size .. " bytes"
  end
  return number
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local function refuse(status, sentence)
    handle:respond({[":status"] = status}, sentence)
  end
  local encoding = headers:get("content-encoding")
  if encoding and encoding ~= "identity" then
    return refuse("415", "Content-Encoding: '" .. encoding .. "' is not unpacked here; send the body as it is")
  end
  if headers:get(":method") ~= "POST" then return end
  local body = handle:body()
  -- Waiting for the body invalidates the headers that were read before.
  headers = handle:headers()
  local size = body and body:length() or 0
  local length, problem = json_length(headers, size)
  if not length then return refuse("400", problem) end
  if size == 0 and not headers:get("inference-header-content-length") then
    return refuse("400", "the body: it is empty; send the inference as a JSON object")
  end
  if length == 0 then return end
  local mistake, sequence = check_json(body:getBytes(0, length), foreign_charset(headers:get("content-type") or nil))
  if mistake then return refuse("400", mistake) end
  if sequence and not headers:get("x-trireme-sequence") then
    headers:add("x-trireme-sequence", (sequence:gsub("[^\33-\126]", function(c) return ("%%%02X"):format(byte(c)) end)))
    handle:clearRouteCache()
  end
end
