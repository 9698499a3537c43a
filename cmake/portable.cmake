# The `portable` preset: a folder that runs on other distributions (glibc 2.35 or newer), made with
#   cmake --preset portable && cmake --build --preset portable && cmake --install build/portable --strip
# The C++ runtime, fmt, OpenSSL's hash, the libraries for pictures and CUDA's runtime are linked in; other libraries in C that a system may lack or have in
# another version go into lib/, where the program looks first. glibc, a GPU's driver and libcurl, where it has one, are the system's.
# tools/portable_checks.sh sees that the folder keeps these promises.
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")
# Without what is not used: half of the C++ runtime, which would ask for a newer glibc, and functions of our own.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffunction-sections> $<$<COMPILE_LANGUAGE:CXX>:-fdata-sections>)
add_link_options(-static-libstdc++ -static-libgcc -Wl,--gc-sections)
# Functions that came out alike once, where the linker can: 0.1 MiB. safe: none whose address is taken.
include(CheckLinkerFlag)
check_linker_flag(CXX -fuse-ld=gold QB_HAS_GOLD)
if(QB_HAS_GOLD)
  add_link_options(-fuse-ld=gold -Wl,--icf=safe)
endif()

# After the targets exist: what computes nothing by the token or by the weight is made small, which takes 1.0 MiB off the
# folder. What computes is compiled as everywhere, so that it is as fast as a build for measuring; what lies between is not
# made small either: with a small reader of tokenizers the bundled model was there after 12.2 instead of 10.9 ms.
set(QB_SMALL_ROOMS core checkpoint hub text image model engine bench import report backend_base backend_reference gpu_choice
    persistent_plan backend)
set(QB_SMALL_SOURCES cublaslt cuda_backend device_memory runtime_cuda persistent/persistent_program persistent/tensor_map)
set(QB_BETWEEN_SOURCES core/json core/parallel text/bpe_merges text/byte_level_bpe text/text_model image/exif engine/session)
set(QB_FAST_SOURCES checkpoint/convert checkpoint/random_weights image/resize)
function(qb_compile_source source flag)
  get_filename_component(room ${source} DIRECTORY)
  string(REPLACE "cuda/persistent" "cuda" room ${room})
  set_source_files_properties(${PROJECT_SOURCE_DIR}/src/${source}.cpp DIRECTORY ${PROJECT_SOURCE_DIR}/src/${room}
                              PROPERTIES COMPILE_OPTIONS ${flag})
endfunction()
function(qb_make_small)
  foreach(room IN LISTS QB_SMALL_ROOMS)
    target_compile_options(qb_${room} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Os>)
  endforeach()
  foreach(target qb_app quantbench)
    target_compile_options(${target} PRIVATE -Os)
  endforeach()
  foreach(source IN LISTS QB_SMALL_SOURCES)
    qb_compile_source(backend/cuda/${source} -Os)
  endforeach()
  foreach(source IN LISTS QB_BETWEEN_SOURCES)
    qb_compile_source(${source} -O2)
  endforeach()
  foreach(source IN LISTS QB_FAST_SOURCES)
    qb_compile_source(${source} -O3)
  endforeach()
endfunction()

# What libjpeg-turbo and libpng write pictures with is bound to what reads them, so that it would come along, with zlib's half
# for it: 0.2 MiB. We only read; each of these names, which reading calls nowhere, is one function that ends the program. A
# library that has other names keeps what it has.
set(QB_PICTURE_WRITERS png_destroy_write_struct png_free_buffer_list png_save_uint_32
    jconst_huff_encode_one_block jsimd_huff_encode_one_block_sse2
    jsimd_encode_mcu_AC_first_prepare_sse2 jsimd_encode_mcu_AC_refine_prepare_sse2
    jconst_fdct_float_sse jsimd_fdct_float_sse jconst_fdct_ifast_sse2 jsimd_fdct_ifast_sse2
    jsimd_convsamp_float_sse2 jsimd_quantize_float_sse2)
foreach(isa sse2 avx2)
  list(APPEND QB_PICTURE_WRITERS jsimd_h2v1_downsample_${isa} jsimd_h2v2_downsample_${isa} jconst_fdct_islow_${isa}
       jsimd_fdct_islow_${isa} jsimd_convsamp_${isa} jsimd_quantize_${isa})
  foreach(to ycc gray)
    list(APPEND QB_PICTURE_WRITERS jconst_rgb_${to}_convert_${isa})
    foreach(from rgb extrgb extrgbx extbgr extbgrx extxbgr extxrgb)
      list(APPEND QB_PICTURE_WRITERS jsimd_${from}_${to}_convert_${isa})
    endforeach()
  endforeach()
endforeach()
# After the targets exist.
function(qb_leave_out_picture_writers)
  target_link_options(qb_image INTERFACE -Wl,--undefined=qb_writes_no_picture)
  foreach(name IN LISTS QB_PICTURE_WRITERS)
    target_link_options(qb_image INTERFACE -Wl,--defsym=${name}=qb_writes_no_picture)
  endforeach()
endfunction()

# The notices that the licences of those libraries ask to go with copies, as Debian and Ubuntu have them, in notices/.
set(QB_NOTICE_PACKAGES libfmt-dev nlohmann-json3-dev libcli11-dev libonig-dev libssl-dev libpng-dev libwebp-dev zlib1g-dev)
if(EXISTS /usr/share/doc/libjpeg-turbo8-dev/copyright)
  list(APPEND QB_NOTICE_PACKAGES libjpeg-turbo8-dev)  # as Ubuntu names it
else()
  list(APPEND QB_NOTICE_PACKAGES libjpeg62-turbo-dev)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  string(REGEX MATCH "^[0-9]+" qb_gcc_version ${CMAKE_CXX_COMPILER_VERSION})
  list(APPEND QB_NOTICE_PACKAGES gcc-${qb_gcc_version}-base)  # libstdc++ and libgcc
endif()
function(qb_install_notices)
  if(QB_D3 AND QB_D3_LICENCE)  # looked for after this file was read
    list(APPEND QB_NOTICE_PACKAGES libjs-d3)
  endif()
  foreach(package IN LISTS QB_NOTICE_PACKAGES)
    set(notice /usr/share/doc/${package}/copyright)
    if(NOT EXISTS ${notice})
      message(FATAL_ERROR "${notice} is not there, and a folder without it may not be handed out; install ${package}")
    endif()
    install(FILES ${notice} DESTINATION notices RENAME ${package}.txt COMPONENT notices)
  endforeach()
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/THIRD_PARTY.md DESTINATION . COMPONENT notices)
endfunction()

# After the targets exist: copies what the linked program needs and a bare system does not have; of a program that was not
# built, nothing. The component may be named behind the target.
function(qb_install_libraries target)
  set(component ${ARGN})
  if(NOT component)
    set(component Unspecified)
  endif()
  install(CODE "
    if(EXISTS \"$<TARGET_FILE:${target}>\")
      file(GET_RUNTIME_DEPENDENCIES EXECUTABLES \"$<TARGET_FILE:${target}>\" RESOLVED_DEPENDENCIES_VAR libraries
           POST_EXCLUDE_REGEXES \".*/(ld-linux|libc\\\\.so|libm\\\\.so|libdl|libpthread|librt)[^/]*\")
      foreach(library IN LISTS libraries)
        file(INSTALL \"\${library}\" DESTINATION \"\${CMAKE_INSTALL_PREFIX}/lib\" FOLLOW_SYMLINK_CHAIN)
      endforeach()
    endif()" COMPONENT ${component})
endfunction()

# A .deb and a .tar.gz of the folder, for every distribution that it runs on: (cd build/portable && cpack). The .deb has it in
# /usr/lib/quantbench, beside nothing of the system, and a link to the program in /usr/bin.
function(qb_package_portable)
  set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # cpack takes what is there and builds no tests
  set(CPACK_GENERATOR DEB TGZ)
  set(CPACK_PACKAGE_NAME quantbench)
  set(CPACK_PACKAGE_CONTACT "The quantbench project")
  set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "measures language models in FP16, INT8 and NF4")
  set(CPACK_PACKAGE_DESCRIPTION "One program with an inference engine of its own, for CPUs (x86-64 with AVX2) and NVIDIA GPUs. \
It brings what a system may lack beside glibc 2.35.")
  set(CPACK_VERBATIM_VARIABLES ON)
  set(CPACK_STRIP_FILES ON)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_SECTION science)
  set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6 (>= 2.35)")
  set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libcurl4 | libcurl4t64, libsqlite3-0, librsvg2-2")
  set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ
      WORLD_EXECUTE)
  set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_SOURCE_DIR}/cmake/portable_package.cmake)
  include(CPack)
endfunction()
