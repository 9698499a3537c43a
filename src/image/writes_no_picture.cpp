// Stands in portable programs for what the libraries write pictures with (cmake/portable.cmake). Nothing calls it.
#include <cstdlib>

extern "C" [[noreturn]] void qb_writes_no_picture() { std::abort(); }
