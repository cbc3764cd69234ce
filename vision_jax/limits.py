"""How much of what a stranger's file asks for is granted: every bound on reading files, in one place.

Reading anything takes at most 512 MiB of memory besides twice the file's size on disk; a file that asks for more ends in
one line.
"""

FILE_MEMORY = 384 * 2**20  # of what is read of a file, besides twice its size on disk; working on it takes the rest
JSON_BYTES = 16 * 2**20  # of a JSON file or text; Python's objects take up to 24 times its size

PICTURE_FILE_BYTES = 256 * 2**20  # of an encoded picture
PICTURE_MEMORY = 432 * 2**20  # of decoding a picture, by estimate: the default of the config key data.picture_memory
PICTURE_SIDE = 2**20  # pixels; a resize's weights take 64 bytes a pixel of its sides
PICTURE_READS = 2**20  # of parts of an encoded picture, a few of which make a chunk or block
PICTURE_COMMENTS = 1000  # in a PPM of digits: each makes Pillow copy a megabyte
PICTURE_STRIPS = 2**18  # strips or tiles of a TIFF
PICTURE_SLOW_PIXELS = 2**22  # of a picture that Pillow decodes in Python: RLE in BMP, PPM of digits or unusual depth
PICTURE_SCANNED_PIXELS = 2**32  # pixels times scans of a JPEG
RESIZED_PIXELS = 2**24  # of what a resize makes on its way to a picture of the wanted size

MEMBER_NAME_BYTES = 1024  # of a tar member of a pair; an index has room for the longest name in every row
CAPTION_BYTES = 2**20  # of a text or JSON member with captions
SHARDS = 2**20  # that a pattern of braces and stars names
SELECTION_PART_BYTES = 2**20  # of a selection that is read at once, such as its list of members
QUERIES_BYTES = 16 * 2**20  # of a file of queries to curate by
TEXT_CHARACTERS = 2**15  # of a text that are looked at; normalising is quadratic in a run of combining marks
VOCABULARY_BYTES = 16 * 2**20  # of a vocabulary, unpacked; that of CLIP has 3
VOCABULARY_TOKENS = 2**20
CLASS_NAME_CHARACTERS = 1000  # of a class's name or context, of a prompt's template, of a query
CLASSES = 2**17  # that a list names
PROMPT_BYTES = 256 * 2**20  # of all classes in all templates
