#pragma once                                                // what it declares is not emulated: see source.py
