-- The health of a Step, and of an App (bema.dev), for Argo CD: `resource.customizations.health.bema.dev_…` in argocd-cm.
local function health(status, message)
  return {status = status, message = message}
end

local found = obj.status or {}
if found.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "The operator has not looked at this generation yet.")
end

local conditions = {}
for _, condition in ipairs(found.conditions or {}) do
  conditions[condition.type] = condition
end

local ready, stalled = conditions.Ready, conditions.Stalled
if stalled ~= nil and stalled.status == "True" then
  return health("Degraded", stalled.reason .. ": " .. stalled.message)
end
if ready == nil then
  return health("Progressing", "The operator has not said yet whether it is ready.")
end
if ready.status ~= "True" then
  return health("Progressing", ready.reason .. ": " .. ready.message)
end
if ready.reason == "Suspended" then
  return health("Suspended", ready.message)
end
return health("Healthy", ready.message)
