// The routes that say what text is in tokens: vLLM's names, which lm-eval's remote tokenizer asks for.

import type { ServedModel } from "../inputs/served-model.ts";
import { promptOf } from "./chat-completions.ts";
import type { RequestFields } from "./fields.ts";

/** POST /tokenize: a prompt, or messages by the template. */
export function tokenize(fields: RequestFields, served: ServedModel): Response {
  const tokens =
    fields.get("messages") === undefined
      ? served.tokenizer.encode(fields.text("prompt"), {
          addBos: fields.flag("add_special_tokens", true),
          parseSpecial: true,
        })
      : promptOf(fields, served);
  const { capacity } = served.session.options;
  return Response.json({ count: tokens.length, max_model_len: capacity, tokens: [...tokens] });
}

/** POST /detokenize */
export function detokenize(fields: RequestFields, served: ServedModel): Response {
  const tokens = fields.get("tokens");
  if (!Array.isArray(tokens) || !tokens.every((id) => Number.isSafeInteger(id)))
    fields.fail("tokens", "expected a list of token ids");
  return Response.json({ prompt: served.tokenizer.decode(tokens as number[]) });
}

/** GET /tokenizer_info */
export function tokenizerInfo({ tokenizer, session }: ServedModel): Response {
  const { bosToken, eosToken, chatTemplate, vocabSize, addsBos } = tokenizer;
  return Response.json({
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: bosToken === "" ? null : bosToken,
    eos_token: eosToken === "" ? null : eosToken,
    pad_token: eosToken === "" ? null : eosToken,
    add_bos_token: addsBos,
    chat_template: chatTemplate,
    vocab_size: vocabSize,
    model_max_length: session.options.capacity,
  });
}
