// Chat templates that --prompt-template knows by name, as Jinja.

/** Vicuna v1.1's conversation (FastChat): what NEFTune's authors trained ShareGPT with. */
const VICUNA = [
  '{%- set default_system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user\'s questions." -%}',
  "{{- bos_token -}}",
  "{%- if messages and messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}",
  "{%- else -%}{%- set system = default_system -%}{%- set turns = messages -%}{%- endif -%}",
  "{{- system + ' ' -}}",
  "{%- for turn in turns -%}",
  "{%- if turn['role'] == 'user' -%}{{- 'USER: ' + turn['content'] + ' ' -}}",
  "{%- elif turn['role'] == 'assistant' -%}{{- 'ASSISTANT: ' + turn['content'] + eos_token -}}",
  "{%- else -%}{{- raise_exception('after the system message, turns are those of user and assistant') -}}{%- endif -%}",
  "{%- endfor -%}",
  "{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}",
].join("");

/**
 * Llama 2 Chat's conversation (arXiv 2307.09288, and the format of its reference code): each question in [INST], with
 * the system's words inside the first, each exchange from BOS to EOS. Refuses what the model was not trained on.
 */
const LLAMA2 = [
  "{%- if messages[0]['role'] == 'system' -%}{%- set turns = messages[1:] -%}",
  "{%- set preface = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}",
  "{%- else -%}{%- set turns = messages -%}{%- set preface = '' -%}{%- endif -%}",
  "{%- for turn in turns -%}",
  "{%- if turn['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}",
  "{{- raise_exception('after the system message, user and assistant have to take turns, the user first') -}}",
  "{%- endif -%}",
  "{%- if turn['role'] == 'assistant' -%}{{- ' ' + turn['content'].strip() + ' ' + eos_token -}}",
  "{%- else -%}{%- set question = (preface if loop.first else '') + turn['content'] -%}",
  "{{- bos_token + '[INST] ' + question.strip() + ' [/INST]' -}}{%- endif -%}",
  "{%- endfor -%}",
].join("");

/** Llama 3's conversation (its model card and reference code): each turn behind a header that names its role. */
const LLAMA3 = [
  "{{- bos_token -}}",
  "{%- for turn in messages -%}",
  "{%- if turn['role'] not in ['system', 'user', 'assistant'] -%}",
  "{{- raise_exception('turns are those of system, user and assistant') -}}{%- endif -%}",
  "{{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' + turn['content'].strip() + '<|eot_id|>' -}}",
  "{%- endfor -%}",
  "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}",
].join("");

/** ChatML (OpenAI): each turn between <|im_start|> with its role and <|im_end|>. */
const CHATML = [
  "{%- for turn in messages -%}",
  "{%- if turn['role'] not in ['system', 'user', 'assistant'] -%}",
  "{{- raise_exception('turns are those of system, user and assistant') -}}{%- endif -%}",
  "{{- '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' -}}",
  "{%- endfor -%}",
  "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}",
].join("");

/**
 * Mistral 7B Instruct's conversation (its model card): questions in [INST], answers up to EOS, one BOS in all. The
 * system's words stand before the first question, as mistral-common and the models' own templates put them.
 */
const MISTRAL = [
  "{%- if messages[0]['role'] == 'system' -%}{%- set turns = messages[1:] -%}",
  "{%- set preface = messages[0]['content'] + '\n\n' -%}",
  "{%- else -%}{%- set turns = messages -%}{%- set preface = '' -%}{%- endif -%}",
  "{{- bos_token -}}",
  "{%- for turn in turns -%}",
  "{%- if turn['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}",
  "{{- raise_exception('after the system message, user and assistant have to take turns, the user first') -}}",
  "{%- endif -%}",
  "{%- if turn['role'] == 'assistant' -%}{{- ' ' + turn['content'] + eos_token -}}",
  "{%- else -%}{{- '[INST] ' + (preface if loop.first else '') + turn['content'] + ' [/INST]' -}}{%- endif -%}",
  "{%- endfor -%}",
].join("");

export const namedTemplates = {
  vicuna: VICUNA,
  llama2: LLAMA2,
  llama3: LLAMA3,
  chatml: CHATML,
  mistral: MISTRAL,
} as const;
export type TemplateName = keyof typeof namedTemplates;
