// Included into every source of the library with planted faults: the number of the one that acts.
#pragma once

extern "C" {
extern int planted;
}
