# Writes OUTPUT with what a record says of the build. Run at every build (cmake -P), so that the commit is never stale;
# the file is touched only when something changed.
execute_process(COMMAND git -C "${SOURCE}" rev-parse --show-toplevel OUTPUT_VARIABLE top ERROR_QUIET
                OUTPUT_STRIP_TRAILING_WHITESPACE)
execute_process(COMMAND git -C "${SOURCE}" rev-parse HEAD OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE
                RESULT_VARIABLE status)
get_filename_component(source "${SOURCE}" REALPATH)
if(NOT status EQUAL 0 OR NOT top STREQUAL source)  # an unpacked archive, perhaps inside somebody else's repository
  set(commit "unknown")
else()
  execute_process(COMMAND git -C "${SOURCE}" status --porcelain --untracked-files=no OUTPUT_VARIABLE changes ERROR_QUIET
                  RESULT_VARIABLE status)
  if(NOT status EQUAL 0 OR NOT changes STREQUAL "")
    string(APPEND commit "+changes")
  endif()
endif()
file(WRITE "${OUTPUT}.new" "// Made by cmake/build_info.cmake.
#pragma once
#define QB_VERSION \"${VERSION}\"
#define QB_GIT_COMMIT \"${commit}\"
#define QB_COMPILER \"${COMPILER}\"
#define QB_BUILD_TYPE \"${BUILD_TYPE}\"
#define QB_SANITIZERS \"${SANITIZERS}\"
")
execute_process(COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${OUTPUT}.new" "${OUTPUT}")
