-- Health of a ModelDeployment for Argo CD. `Ready` means that the stable revision serves, also while a canary runs.
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
local function summary(type)
  local condition = conditions[type] or {}
  local message = condition.message or ""
  if message == "" then
    return condition.reason or ""
  end
  return (condition.reason or "") .. ": " .. message
end

-- The spec is invalid, or its rollout was ended: Git and the cluster differ until somebody acts.
if is("Stalled") then
  return { status = "Degraded", message = summary("Stalled") }
end
if is("Progressing", "Paused") then
  return { status = "Suspended", message = summary("Progressing") }
end
if is("Ready") then
  return { status = "Healthy", message = is("Progressing") and summary("Progressing") or summary("Ready") }
end
return { status = "Progressing", message = summary("Ready") }
