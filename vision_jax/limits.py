"""How much of what a stranger's file asks for is granted: every bound on reading files, in one place.

Reading anything takes at most 512 MiB of memory besides twice the file's size on disk; a file that asks for more ends in
one line.
"""

FILE_MEMORY = 384 * 2**20  # of what is read of a file, besides twice its size on disk; working on it takes the rest
JSON_BYTES = 16 * 2**20  # of a JSON file or text; Python's objects take up to 24 times its size
VALUE_DEPTH = 16  # of lists in a config's value
INTEGER = 2**63  # below it in size: every whole number of a config
FLOAT = 3.4e38  # up to it in size: every other number of a config, which JAX holds in 32 bits
PROCESSES = 2**20  # of a run, and seconds that one waits for another
STEPS = 2**31  # below it: steps of a duration, which JAX counts in 32 bits
MODEL_SIZE = 2**20  # of any whole number among a model's fields: width, classes, tokens
MODEL_DEPTH = 1000  # blocks of a model, each of which is named and traced; published models have up to 64
IMAGE_SIDE = 2**14  # pixels of a picture's side as a model takes it
TOKENS = 2**20  # patches of a picture
CONFIG_BYTES = 4 * 2**20  # of a config.json, or an index of weights; with 21,841 classes one has 2 MB
MEMORY = 512 * 2**20  # bytes that the tensors of a file may take besides twice its size on disk
HOLES = 64 * 2**20  # bytes of a file that are on no disk: more is a sparse file, which reads as far more than it is
TENSORS = 20_000  # of a file, each of which costs a read; a checkpoint with its optimizer has a few thousand
TENSOR_NAME = 1000  # characters; published names have up to 120
TENSOR_NAMES = 16 * 2**20  # characters of all names of a file, which nesting may multiply
TENSOR_SIDES = 32  # no weights have more than 5, and numpy before 2 has no more than 32
SAFETENSORS_HEADER = 8 * 2**20  # bytes; 60 or more a tensor, and Python's objects take up to 30 times their size
ZIP_DIRECTORY = 8 * 2**20  # bytes; 60 or more a member
PICKLE_BYTES = 32 * 2**20  # of a checkpoint's pickle, which holds no values: those of large models have 1 MB
PICKLE_STEPS = 1_000_000  # opcodes, and items that they copy; a tensor takes 60
PICKLE_ENTRIES = 500_000  # of the dicts and lists of a checkpoint, shared ones counted as often as they are met
BLOCKS = 600  # of a model that a file describes, of which each is named; the largest published ones have under 100
FILE_IMAGE_SIDE = 4096  # pixels that a file's model is for; for larger images, load_pretrained takes image_size=
CROP = 0.1  # the least share of a picture that a file says to keep: what is cut away is resized before
PAIRS = 2**26  # of tokens that may see each other, in Swin's windows or in a text, whose masks have a byte for each
POSITIONS = 2**23  # numbers in a computed table of positions, which takes 24 times as many bytes meanwhile

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
TAR_EXTENSION_BYTES = 64 * 2**20  # of all extended headers of a shard, whose records have 7 bytes or more
SHARDS = 2**20  # that a pattern of braces and stars names
SHARD_NAMES = 2**27  # characters of the paths that a pattern of braces names
SELECTION_PART_BYTES = 2**20  # of a selection that is read at once, such as its list of members
QUERIES_BYTES = 10 * 2**20  # of queries to curate by, in their file and normalised; each takes 45 bytes to find it
TEXT_CHARACTERS = 2**15  # of a text that are looked at; normalising is quadratic in a run of combining marks
VOCABULARY_BYTES = 16 * 2**20  # of a vocabulary, unpacked; that of CLIP has 3
VOCABULARY_TOKENS = 2**20
CLASS_NAME_CHARACTERS = 1000  # of a class's name or context, of a prompt's template, of a query
CLASSES = 2**17  # that a list names
TABLE_BYTES = 256 * 2**20  # of a CSV file of pictures
TABLE_ROWS = 2**22  # of it
PROMPT_BYTES = 256 * 2**20  # of all classes in all templates
