// Fingerprints of several parts.

/** Hashes parts with their lengths, so that no two lists of parts run together. */
export function sha256(parts: readonly (string | Uint8Array)[]): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const part of parts) {
    const bytes = typeof part === "string" ? Buffer.from(part) : part;
    hasher.update(`${bytes.length} `);
    hasher.update(bytes);
  }
  return hasher.digest("hex");
}
