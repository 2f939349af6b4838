// Stands in for libgcc_s.so.1, of which oneDNN needs one function; the unwinder itself is linked into our libstdc++.
__attribute__((naked, visibility("default"))) void _Unwind_Resume(void) { __asm__("jmp *nt_unwind_resume@GOTPCREL(%rip)"); }
