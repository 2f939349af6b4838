// What a client's messages say of what it does: downloads, or uploads.

import { InterruptedError, NeftuneError } from "../../errors.ts";
import type { Answer } from "./answer.ts";
import { type Asked, answered, nameOf, refusal } from "./refusal.ts";
import { type HubSettings, pageOf } from "./settings.ts";

export interface Purpose {
  /** "the download of". */
  what: string;
  /** What the same command does after Ctrl-C. */
  resumed: string;
  /** The message where the Hub cannot be reached, for that reason. */
  unreachable(settings: HubSettings, asked: Asked, reason: string): string;
  /** The error for a final status of 400 or above; ends the answer. */
  refusal(settings: HubSettings, asked: Asked, answer: Answer): Promise<NeftuneError>;
}

/** What ends a transfer when the user asks for it: all that has arrived stays. */
export const stopped = (asked: Asked, { what, resumed }: Purpose) =>
  new InterruptedError(`${what} ${nameOf(asked)} was stopped; the same command ${resumed}`);

export const downloading: Purpose = {
  what: "the download of",
  resumed: "continues from there",
  unreachable: ({ endpoint }, asked, reason) =>
    `${nameOf(asked)} cannot be downloaded from ${endpoint}: ${reason}; the same command continues from where it stopped. HF_HUB_OFFLINE=1 keeps to what is in the cache`,
  async refusal(settings, asked, answer) {
    answer.close();
    return refusal(settings, asked, answer.status, answer.headers);
  },
};

export const uploading: Purpose = {
  what: "the upload of",
  resumed: "skips the files that have arrived",
  unreachable: ({ endpoint }, asked, reason) =>
    `${nameOf(asked)} cannot be uploaded to ${endpoint}: ${reason}; the same command skips the files that have arrived`,
  async refusal(settings, asked, answer) {
    const { status, headers } = answer;
    const reason = headers.get("X-Error-Message") ?? (await reasonIn(answer));
    answer.close();
    return uploadRefusal(settings, asked, status, headers.get("X-Error-Code") ?? "", reason);
  },
};

const MOST_REASON_BYTES = 64 * 2 ** 10;

/** The API says in its answer's JSON what it did not like, such as a line of a model card. */
async function reasonIn(answer: Answer): Promise<string> {
  let text = "";
  try {
    for await (const chunk of answer.chunks()) {
      text += Buffer.from(chunk).toString("latin1");
      if (text.length > MOST_REASON_BYTES) return "";
    }
    const { error } = JSON.parse(text) as { error?: unknown };
    return typeof error === "string" ? error : "";
  } catch {
    return "";
  }
}

/** Where a token that may write is made and put. */
export const writeToken = ({ endpoint, tokenFile }: HubSettings) =>
  `make a token with write permission at ${endpoint}/settings/tokens, and give it as HF_TOKEN or save it in ${tokenFile} (hf auth login does)`;

function uploadRefusal(
  settings: HubSettings,
  asked: Asked,
  status: number,
  code: string,
  reason: string,
): NeftuneError {
  const { kind, id, revision } = asked;
  const answer = answered(settings, status, reason);
  const owner = id.split("/")[0];
  if (status === 401 && code !== "RepoNotFound") {
    return new NeftuneError(
      "token",
      `the Hub does not accept your token (HF_TOKEN, or ${settings.tokenFile}): ${writeToken(settings)}. ${answer}`,
    );
  }
  if (status === 403) {
    return new NeftuneError(
      "token",
      `your token may not write to ${id}: it lacks write permission, or its account may not write to ${owner}; ${writeToken(settings)}. ${answer}`,
    );
  }
  if (code === "RevisionNotFound") {
    const branches = `${pageOf(settings, kind, id)}/tree/main lists its branches`;
    return new NeftuneError(
      "no_revision",
      `${nameOf(asked)} has no branch ${JSON.stringify(revision)}; ${branches}. ${answer}`,
    );
  }
  if (status === 404 || code === "RepoNotFound") {
    return new NeftuneError(
      "not_found",
      `the Hub has no model ${id} that your token may write to: check the name; the account of the token must have access to ${owner}. ${answer}`,
    );
  }
  return new NeftuneError("hub", `${nameOf(asked)} cannot be uploaded: ${answer}`);
}
