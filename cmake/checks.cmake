# Checks of the tree and of the built program that are scripts, registered beside the unit tests. A script that cannot
# run here says why and ends with 77, which ctest counts as skipped.

function(qb_check name)
  add_test(NAME ${name} COMMAND bash ${ARGN} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
endfunction()

qb_check(check_tree tools/check_tree.sh)
qb_check(check_format tools/check_format.sh)
qb_check(check_tidy tools/tidy.sh)
qb_check(check_tree_self_test tools/check_tree.sh --self-test)
qb_check(check_cuda_built_self_test tools/check_cuda_built.sh --self-test)
qb_check(check_turing_self_test tools/check_turing.sh --self-test)
qb_check(portable_checks_self_test tools/portable_checks.sh --self-test)
qb_check(check_notices tools/check_notices.sh ${PROJECT_BINARY_DIR})
# What the linker makes of inline functions is only meaningful for the build that is handed out.
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT QB_SANITIZE)
  qb_check(check_isa tools/check_isa.sh ${PROJECT_BINARY_DIR})
  qb_check(check_cuda_built tools/check_cuda_built.sh ${PROJECT_BINARY_DIR})
  qb_check(portable_checks tools/portable_checks.sh)
  if(TARGET qb_backend_cuda)
    qb_check(check_turing tools/check_turing.sh ${PROJECT_BINARY_DIR})
  endif()
  if(TARGET quantbench)
    qb_check(check_page tools/check_page.sh ${PROJECT_BINARY_DIR})
    qb_check(qemu_avx2 tools/qemu_checks.sh avx2 ${PROJECT_BINARY_DIR})
    qb_check(qemu_refusal tools/qemu_checks.sh refusal ${PROJECT_BINARY_DIR})
  endif()
endif()
add_test(NAME cuda_targets COMMAND ${CMAKE_COMMAND} -DFOLDER=${PROJECT_BINARY_DIR}/cuda_targets_test
                                   -P ${PROJECT_SOURCE_DIR}/cmake/cuda_targets_test.cmake)
