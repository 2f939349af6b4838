/** What random numbers are for, so that no two uses share one: bits 16–31 of counter word 3, as in kernels/philox.h. */
export const PhiloxStream = { noise: 0, dropout: 1, shuffle: 2, init: 3, sample: 4 } as const;
