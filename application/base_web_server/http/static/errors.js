// What a failure means for the reader: always what happened and what to do.

import { t, hasText } from "./i18n.js";

export function errorText(error) {
  if (error.code === null) return t("error.unreachable");
  const key = `error.${error.code}`;
  const vars = { seconds: Math.ceil(error.retryAfterS ?? 5), reason: error.message };
  return hasText(key) ? t(key, vars) : t("error.other", vars);
}
