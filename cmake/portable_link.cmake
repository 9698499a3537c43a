# Before a .deb is made of the files in CPACK_TEMPORARY_INSTALL_DIRECTORY.
file(MAKE_DIRECTORY ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr/bin)
file(CREATE_LINK ../lib/quantbench/bin/quantbench ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr/bin/quantbench SYMBOLIC)
