-- Health of a ModelDeployment for Argo CD. `Ready` says that the stable revision serves, also while a canary runs.
if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "is being deleted" }
end
local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this spec yet" }
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local function is(type, reason)
  local condition = conditions[type]
  return condition ~= nil and condition.status == "True" and (reason == nil or condition.reason == reason)
end
local function told(type)
  local condition = conditions[type] or {}
  local message = condition.message or ""
  if message == "" then
    return condition.reason or ""
  end
  return (condition.reason or "") .. ": " .. message
end

-- The spec is refused, or its rollout was ended: git and what serves differ until somebody acts.
if is("Stalled") then
  return { status = "Degraded", message = told("Stalled") }
end
if is("Progressing", "Paused") then
  return { status = "Suspended", message = told("Progressing") }
end
if is("Ready") then
  return { status = "Healthy", message = is("Progressing") and told("Progressing") or told("Ready") }
end
return { status = "Progressing", message = told("Ready") }
