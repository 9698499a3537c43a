# A .deb and a .tar.gz of an ordinary build, for the distribution that it was built on:
#   cmake --build --preset release --target quantbench && (cd build/release && cpack)
# What the program is linked with is asked of the distribution's packages (dpkg-shlibdeps); what is opened at run time is
# suggested. The folder of the preset portable is for other distributions.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # cpack takes what is there and builds no tests

# The notices of what is in the program itself; other libraries' come with their packages.
set(qb_doc share/doc/quantbench)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${qb_doc} RENAME copyright)
install(FILES ${PROJECT_SOURCE_DIR}/THIRD_PARTY.md ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${qb_doc})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${qb_doc} FILES_MATCHING PATTERN "*.md" PATTERN "*.json" PATTERN "*.csv")
install(PROGRAMS ${PROJECT_SOURCE_DIR}/tools/run_transformers.py ${PROJECT_SOURCE_DIR}/tools/transformers_records.py
        DESTINATION ${qb_doc}/tools)
set(qb_in_program nlohmann-json3-dev libcli11-dev)
if(QB_D3 AND QB_D3_LICENCE)
  list(APPEND qb_in_program libjs-d3)
endif()
foreach(package IN LISTS qb_in_program)
  install(FILES /usr/share/doc/${package}/copyright DESTINATION ${qb_doc}/notices RENAME ${package}.txt OPTIONAL)
endforeach()

set(CPACK_GENERATOR TGZ)
find_program(QB_DPKG_SHLIBDEPS dpkg-shlibdeps)
if(QB_DPKG_SHLIBDEPS)
  list(PREPEND CPACK_GENERATOR DEB)
endif()
set(CPACK_PACKAGE_NAME quantbench)
set(CPACK_PACKAGE_CONTACT "The quantbench project")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "measures language models in FP16, INT8 and NF4")
set(CPACK_PACKAGE_DESCRIPTION "One program with an inference engine of its own, for CPUs (x86-64 with AVX2) and NVIDIA GPUs.")
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libcurl4 | libcurl4t64, libsqlite3-0, librsvg2-2")
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ
    WORLD_EXECUTE)
include(CPack)
