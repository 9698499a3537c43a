# Flags shared by every target, and the three shapes a target takes here: a room (static library), a test, a benchmark.

add_library(qb_options INTERFACE)
target_include_directories(qb_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
set(QB_HOST_FLAGS -Wall -Wextra -Wshadow -Wno-missing-field-initializers)
# Results must not depend on the compiler's taste for contracting a*b+c: fma is written where it is meant.
list(APPEND QB_HOST_FLAGS -ffp-contract=off)
if(QB_WERROR)
  list(APPEND QB_HOST_FLAGS -Werror)
endif()
if(QB_SANITIZE)
  list(APPEND QB_HOST_FLAGS -fsanitize=${QB_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(qb_options INTERFACE -fsanitize=${QB_SANITIZE})
endif()
if(QB_FUZZ)
  # Without looking at each comparison, which took a fifth of the time and found nothing that words of the formats do not.
  list(APPEND QB_HOST_FLAGS -fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp)
endif()
target_link_options(qb_options INTERFACE -Wl,--build-id=sha1)  # os::build_id()
target_compile_options(qb_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${QB_HOST_FLAGS}>)

# qb_room(<name> SOURCES a.cpp … DEPS qb_core …): static library qb_<name>.
function(qb_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(qb_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(qb_${name} PUBLIC qb_options ${ARG_DEPS})
endfunction()

# qb_test(<name> SOURCES a_test.cpp … DEPS qb_core …): one test executable; reads its data from testdata/.
function(qb_test name)
  if(NOT QB_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE qb_options ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE QB_SOURCE_DIR="${QB_TEST_ROOT}")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
endfunction()
