# The `portable` preset: a folder that runs on other distributions (glibc 2.35 or newer), made with
#   cmake --preset portable && cmake --build --preset portable && cmake --install build/portable --strip
# The C++ runtime, fmt, OpenSSL's hash and CUDA's runtime are linked in; libraries in C that a system may lack or have in
# another version go into lib/, where the program looks first. glibc, and a GPU's driver, are the system's.
# tools/portable_checks.sh sees that the folder keeps these promises.
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")
# Without what is not used: half of the C++ runtime, which would ask for a newer glibc, and functions of our own.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffunction-sections> $<$<COMPILE_LANGUAGE:CXX>:-fdata-sections>)
add_link_options(-static-libstdc++ -static-libgcc -Wl,--gc-sections)

# After the targets exist: copies what the linked program needs and a bare system does not have.
function(qb_install_libraries target)
  install(CODE "
    file(GET_RUNTIME_DEPENDENCIES EXECUTABLES \"$<TARGET_FILE:${target}>\" RESOLVED_DEPENDENCIES_VAR libraries
         POST_EXCLUDE_REGEXES \".*/(ld-linux|libc\\\\.so|libm\\\\.so|libdl|libpthread|librt)[^/]*\")
    foreach(library IN LISTS libraries)
      file(INSTALL \"\${library}\" DESTINATION \"\${CMAKE_INSTALL_PREFIX}/lib\" FOLLOW_SYMLINK_CHAIN)
    endforeach()")
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/THIRD_PARTY.md DESTINATION .)
endfunction()
