#include "core/error.h"

namespace quantbench {

const char* name_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage: return "usage";
    case ErrorKind::bad_model: return "bad model";
    case ErrorKind::hub: return "hub";
    case ErrorKind::out_of_memory: return "out of memory";
    case ErrorKind::device: return "device";
    case ErrorKind::disk: return "disk";
    case ErrorKind::interrupted: return "interrupted";
    case ErrorKind::internal: return "internal";
  }
  return "unknown";
}

}  // namespace quantbench
