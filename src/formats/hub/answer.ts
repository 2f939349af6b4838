// What a server answered.

/** An answer whose body is read chunk by chunk; close() ends the connection. */
export interface Answer {
  status: number;
  headers: Headers;
  chunks(): AsyncGenerator<Uint8Array>;
  close(): void;
}
