# Files as bytes of the program, gzipped:
#   cmake -DOUTPUT=parts.cpp -DSCRATCH=FOLDER -DFILES=NAME=PATH,NAME=PATH,… -P embed.cmake
# makes page_parts() of report/page_parts.h.
string(REPLACE "," ";" files "${FILES}")
set(arrays "")
set(rows "")
set(number 0)
foreach(file IN LISTS files)
  string(REGEX MATCH "^([^=]+)=(.+)$" matched "${file}")
  set(name "${CMAKE_MATCH_1}")
  set(path "${CMAKE_MATCH_2}")
  file(ARCHIVE_CREATE OUTPUT ${SCRATCH}/part.gz PATHS ${path} FORMAT raw COMPRESSION GZip)
  file(READ ${SCRATCH}/part.gz hex HEX)
  # The time of making it stands in bytes 4 to 7; the same sources make the same program.
  string(SUBSTRING ${hex} 0 8 before)
  string(SUBSTRING ${hex} 16 -1 after)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${before}00000000${after}")
  string(APPEND arrays "const unsigned char kPart${number}[] = {${bytes}};\n")
  string(APPEND rows "      {\"${name}\", {reinterpret_cast<const char*>(kPart${number}), sizeof kPart${number}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"report/page_parts.h\"\n\nnamespace quantbench {\nnamespace {\n${arrays}}  // namespace\n
std::span<const PagePart> page_parts() {\n  static const PagePart parts[] = {\n${rows}  };\n  return parts;\n}\n
}  // namespace quantbench\n")
