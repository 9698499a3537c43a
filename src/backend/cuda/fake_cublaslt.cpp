// A libcublasLt.so for tests: it tells its version, and has one more function.
#include <cstddef>

extern "C" size_t cublasLtGetVersion() { return 130205; }
extern "C" int cublasLtFake() { return 7; }
