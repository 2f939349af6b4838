// What the Hub answers in place of a file, as a sentence that says what to do.

import { NeftuneError } from "../../errors.ts";
import type { RepoKind } from "../hub-cache.ts";
import { type HubSettings, pageOf } from "./settings.ts";

/** What was asked for. */
export interface Asked {
  kind: RepoKind;
  id: string;
  revision: string;
  file?: string;
}

const things = { model: "model", dataset: "data set" } as const;

/** "model org/name" or "config.json of model org/name". */
export function nameOf({ kind, id, file }: Asked): string {
  return `${file === undefined ? "" : `${file} of `}the ${things[kind]} ${id}`;
}

/** "https://huggingface.co answered 404: a reason", whatever characters the server's reason has. */
export function answered(settings: HubSettings, status: number, reason: string): string {
  const said = reason.replaceAll(/[^\x20-\x7e]+/g, " ").slice(0, 300);
  return `${settings.endpoint} answered ${status}${said === "" ? "" : `: ${said}`}`;
}

/** The error for a final status of 400 or above. The Hub's X-Error-Code tells cases with the same status apart. */
export function refusal(settings: HubSettings, asked: Asked, status: number, headers: Headers): NeftuneError {
  const { kind, id, revision, file } = asked;
  const page = pageOf(settings, kind, id);
  const code = headers.get("X-Error-Code") ?? "";
  const answer = answered(settings, status, headers.get("X-Error-Message") ?? "");
  const giveToken = `give it as HF_TOKEN or save it in ${settings.tokenFile} (hf auth login does)`;
  const hasToken = settings.token !== undefined;

  if (code === "GatedRepo" || (status === 403 && code === "")) {
    const accept = `open ${page}, log in and accept its conditions`;
    return new NeftuneError(
      "gated",
      hasToken
        ? `${id} is gated, and the account of your token has no access yet: ${accept} (some owners approve by hand, which takes a while; a fine-grained token also needs read access to gated repositories), then run the same command again. ${answer}`
        : `${id} is gated: ${accept}, make a token that may read it at ${settings.endpoint}/settings/tokens, and ${giveToken}. ${answer}`,
    );
  }
  if (status === 401 && hasToken && code !== "RepoNotFound") {
    return new NeftuneError(
      "token",
      `the Hub does not accept your token (HF_TOKEN, or ${settings.tokenFile}): make a new one at ${settings.endpoint}/settings/tokens. ${answer}`,
    );
  }
  if (code === "RevisionNotFound") {
    return new NeftuneError(
      "not_found",
      `${nameOf(asked)} has no revision ${JSON.stringify(revision)}; ${page}/tree/main lists its branches and tags. ${answer}`,
    );
  }
  if (code === "EntryNotFound" || (file !== undefined && status === 404)) {
    return new NeftuneError(
      "not_found",
      `${id} has no file ${file ?? ""} at revision ${revision}. ${answer}`,
    );
  }
  // For a name that is not there the Hub answers 401 to strangers, so that private names stay secret.
  if (status === 401 || status === 404 || code === "RepoNotFound") {
    const secret = hasToken
      ? "if it is private, the account of your token must have access"
      : `if it is private, ${giveToken.replace("give it", "give your token")}`;
    return new NeftuneError(
      "not_found",
      `the Hub has no ${things[kind]} ${id} that you may read: check the name at ${page}; ${secret}. ${answer}`,
    );
  }
  return new NeftuneError("hub", `${nameOf(asked)} cannot be downloaded: ${answer}`);
}
