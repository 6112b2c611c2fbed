// What went wrong: thrown inside the library, never past its exports.
#pragma once
#include <string>

#include "copier_link.h"

struct Failure {
    CopierCode code;
    std::string why;
};

const char *meaning_of(int code);
