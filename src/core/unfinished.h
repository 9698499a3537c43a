// What is left for a program that has to end at once, where no destructor will run.
#pragma once

namespace quantbench::os {

// Removes the temporary files of this process's OutputFiles and, if they are empty, the folders that its OutputFolders
// made: of the latest few hundred of each. Asks for no memory.
void drop_unfinished() noexcept;

}  // namespace quantbench::os
