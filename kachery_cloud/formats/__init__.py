"""Values as bytes: text, JSON, NumPy arrays, pickles, each the same under every version of Python and numpy.

values          text, JSON and arrays, there and back
npy_header      the header of an npy file, read with bounds
pickling        pickles whose bytes depend on the value alone: `pickle_stream` is the bytes, `pickle_numpy` its part for
                numpy
unpickling      reads pickles without running code: `pickle_types` is what it may build, `pickle_dtypes` the
                types of numpy, `pickle_budget` what one load may cost
places          words for what cannot be written
limits          bounds of both
"""
