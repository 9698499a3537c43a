// The page of `quantbench report -o html`: one file that needs nothing else.
#pragma once

#include <string>
#include <string_view>

#include "report/page_data.h"

namespace quantbench {

// Whether this build has the library that draws the charts; else the page cannot be made.
bool has_page();
// A part of the page as it was before it was packed into the program; empty where the build has none of that name.
std::string page_part(std::string_view name);
// data: what PageData::json() gives. Error usage where has_page() is false, with what to install.
std::string page_html(std::string_view data);

}  // namespace quantbench
