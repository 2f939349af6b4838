// What `import "neftune"` finds at run time: the package has the command and the library's types.
throw new Error(
  "neftune's npm package has the neftune command and the library's types; programs that use the library run with Bun in a checkout of its sources",
);
