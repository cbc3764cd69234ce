"""How much of what an untrusted file asks for is granted: every limit on reading files, in one place.

Reading anything takes at most 512 MiB of memory plus twice the file's size on disk; a file that asks for more ends in one
line.
"""

FILE_MEMORY = 384 * 2**20  # bytes read from a file, plus twice its size on disk; processing them takes the rest
JSON_BYTES = 16 * 2**20  # of a JSON file or text; Python's objects take up to 24 times its size
VALUE_DEPTH = 16  # nested lists in a config's value
INTEGER = 2**63  # every integer of a config is smaller in size
FLOAT = 3.4e38  # the largest other number of a config in size, since JAX holds it in 32 bits
PROCESSES = 2**20  # of a run, and seconds that one waits for another
STEPS = 2**31  # a duration has fewer steps, since JAX counts them in 32 bits
MODEL_SIZE = 2**20  # of any integer among a model's fields: width, classes, tokens
MODEL_DEPTH = 1000  # blocks of a model, each of which is named and traced; published models have up to 64
IMAGE_SIDE = 2**14  # pixels per side of a model's input image
TOKENS = 2**20  # patches per image
CONFIG_BYTES = 4 * 2**20  # of a config.json, or an index of weights; one with 21,841 classes has 2 MB
MEMORY = 512 * 2**20  # bytes that a file's tensors may take, plus twice its size on disk
HOLES = 64 * 2**20  # bytes of a file that are not on disk: more is a sparse file, which reads as far more than it is
TENSORS = 20_000  # of a file, each of which costs a read; a checkpoint with its optimizer has a few thousand
TENSOR_NAME = 1000  # characters; published names have up to 120
TENSOR_NAMES = 16 * 2**20  # characters of all names in a file, which nesting may multiply
TENSOR_SIDES = 32  # no weights have more than 5, and numpy before 2 has no more than 32
SAFETENSORS_HEADER = 8 * 2**20  # bytes; at least 60 per tensor, and Python's objects take up to 30 times their size
ZIP_DIRECTORY = 8 * 2**20  # bytes; at least 60 per member
PICKLE_BYTES = 32 * 2**20  # of a checkpoint's pickle, which holds no values: those of large models have 1 MB
PICKLE_STEPS = 1_000_000  # opcodes, and items that they copy; a tensor takes 60
PICKLE_ENTRIES = 500_000  # of a checkpoint's dicts and lists, shared ones counted each time they occur
BLOCKS = 600  # of a model described by a file, each of which is named; the largest published ones have under 100
FILE_IMAGE_SIDE = 4096  # pixels that a file's model is for; for larger images, load_pretrained takes image_size=
CROP = 0.1  # the smallest share of a picture that a file may keep: what is cut away is resized first
PAIRS = 2**26  # of tokens that may see each other, in Swin's windows or in a text; their masks have a byte per pair
POSITIONS = 2**23  # numbers in a computed position table; computing it takes 24 times as many bytes

PICTURE_FILE_BYTES = 256 * 2**20  # of an encoded picture
PICTURE_MEMORY = 432 * 2**20  # for decoding a picture, estimated: the default of the config key data.picture_memory
PICTURE_SIDE = 2**20  # pixels; a resize's weights take 64 bytes per pixel of its sides
PICTURE_READS = 2**20  # of parts of an encoded picture; a few of them make a chunk or block
PICTURE_COMMENTS = 1000  # in a PPM of digits: each makes Pillow copy a megabyte
PICTURE_STRIPS = 2**18  # strips or tiles of a TIFF
PICTURE_SLOW_PIXELS = 2**22  # of a picture that Pillow decodes in Python: RLE in BMP, PPM of digits or unusual depth
PICTURE_SCANNED_PIXELS = 2**32  # pixels times scans of a JPEG
RESIZED_PIXELS = 2**24  # of the intermediate result when a picture is resized

MEMBER_NAME_BYTES = 1024  # of a tar member of a pair; an index has room for the longest name in every row
CAPTION_BYTES = 2**20  # of a text or JSON member with captions
TAR_EXTENSION_BYTES = 64 * 2**20  # of all extended headers of a shard, whose records have at least 7 bytes
SHARDS = 2**20  # matched by a pattern of braces and stars
SHARD_NAMES = 2**27  # characters of the paths matched by a pattern of braces
SELECTION_PART_BYTES = 2**20  # of a part of a selection that is read at once, such as its list of members
QUERIES_BYTES = 10 * 2**20  # of queries to curate by, in their file and normalised; matching takes 45 bytes for each
TEXT_CHARACTERS = 2**15  # of a text that are read; normalising is quadratic in a run of combining marks
VOCABULARY_BYTES = 16 * 2**20  # of an unpacked vocabulary; CLIP's has 3 MB
VOCABULARY_TOKENS = 2**20
CLASS_NAME_CHARACTERS = 1000  # of a class's name or context, of a prompt's template, of a query
CLASSES = 2**17  # in a list
TABLE_BYTES = 256 * 2**20  # of a CSV file of pictures
TABLE_ROWS = 2**22  # of such a CSV file
PROMPT_BYTES = 256 * 2**20  # of all classes in all templates
