// SVG to PNG by librsvg and Cairo, which are opened when they are needed: a program without them draws SVG.
#include <array>
#include <cstdint>

#include "core/error.h"
#include "core/os.h"
#include "report/charts.h"

namespace quantbench {
namespace {

struct Rectangle {  // RsvgRectangle
  double x, y, width, height;
};
constexpr int kArgb32 = 0;  // CAIRO_FORMAT_ARGB32
constexpr int kSuccess = 0;

os::Library opened(const char* name) {
  auto library = os::Library::open(name);
  if (!library) {
    fail(ErrorKind::usage,
         "--png: there is no {} on this machine; install librsvg2-2 (apt-get install librsvg2-2), or leave --png out "
         "and "
         "take the SVG files",
         name);
  }
  return std::move(*library);
}

template <typename Function>
Function* function_of(const os::Library& library, const char* name) {
  auto* function = library.find<Function>(name);
  if (!function) fail(ErrorKind::usage, "--png: {} has no {}; expected librsvg 2.52 or newer", library.path(), name);
  return function;
}

// Ends what a library made, with its own function.
class Owner {
 public:
  Owner(void* what, void (*end)(void*)) : what_(what), end_(end) {}
  ~Owner() {
    if (what_) end_(what_);
  }
  Owner(const Owner&) = delete;
  void* get() const { return what_; }

 private:
  void* what_;
  void (*end_)(void*);
};

int append(void* into, const unsigned char* data, unsigned length) {
  static_cast<std::string*>(into)->append(reinterpret_cast<const char*>(data), length);
  return kSuccess;
}

}  // namespace

void write_png(const std::string& svg, double scale, const std::string& path) {
  // librsvg says who it is to GObject, once in a process: it must not go, nor come again.
  static const auto& libraries =
      *new std::array{opened("librsvg-2.so.2"), opened("libcairo.so.2"), opened("libgobject-2.0.so.0")};
  const os::Library &rsvg = libraries[0], &cairo = libraries[1], &object = libraries[2];
  using End = void(void*);
  const auto read = function_of<void*(const uint8_t*, size_t, void**)>(rsvg, "rsvg_handle_new_from_data");
  const auto size = function_of<int(void*, double*, double*)>(rsvg, "rsvg_handle_get_intrinsic_size_in_pixels");
  const auto draw = function_of<int(void*, void*, const Rectangle*, void**)>(rsvg, "rsvg_handle_render_document");
  const auto make_surface = function_of<void*(int, int, int)>(cairo, "cairo_image_surface_create");
  const auto make_context = function_of<void*(void*)>(cairo, "cairo_create");
  const auto write = function_of<int(void*, int (*)(void*, const unsigned char*, unsigned), void*)>(
      cairo, "cairo_surface_write_to_png_stream");

  const Owner picture(read(reinterpret_cast<const uint8_t*>(svg.data()), svg.size(), nullptr),
                      function_of<End>(object, "g_object_unref"));
  double width = 0, height = 0;
  if (!picture.get() || size(picture.get(), &width, &height) == 0)
    fail(ErrorKind::internal, "{}: librsvg does not take the chart", path);
  const Rectangle all{0, 0, width * scale, height * scale};
  const Owner surface(make_surface(kArgb32, static_cast<int>(all.width), static_cast<int>(all.height)),
                      function_of<End>(cairo, "cairo_surface_destroy"));
  const Owner context(make_context(surface.get()), function_of<End>(cairo, "cairo_destroy"));
  std::string bytes;
  if (draw(picture.get(), context.get(), &all, nullptr) == 0 || write(surface.get(), append, &bytes) != kSuccess) {
    fail(ErrorKind::out_of_memory, "{}: librsvg could not draw {:.0f} x {:.0f} pixels; there may be too little memory",
         path, all.width, all.height);
  }
  os::write_file_atomically(path, bytes);
}

}  // namespace quantbench
