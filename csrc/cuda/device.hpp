#pragma once

#include <string>
#include <utility>

namespace dmftcore::cuda {

// Number of usable devices, and the runtime's reason when it is zero. Leaves no error behind.
std::pair<int, std::string> device_count();

} // namespace dmftcore::cuda
