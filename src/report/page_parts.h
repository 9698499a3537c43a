// What the page is made of (src/report/page/, and the library that draws), as the build put it into the program.
#pragma once

#include <span>
#include <string_view>

namespace quantbench {

struct PagePart {
  std::string_view name;  // of the file; "d3.js" and "d3.licence" are missing where the build did not find the library
  std::string_view gzipped;
};
std::span<const PagePart> page_parts();  // made by cmake/embed.cmake

}  // namespace quantbench
