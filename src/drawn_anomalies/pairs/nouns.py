"""Nouns that stand in for a subject's own."""

NEUTRAL_NOUNS = ("object", "thing", "item", "surface", "product", "sample", "part", "piece", "material", "texture")
"""Nouns that fit everything."""

_EVERYDAY = """
apple pear banana lemon cherry grape melon tomato potato carrot onion pepper mushroom egg bread cake cheese
sandwich pizza pasta chocolate candy almond peanut walnut hazelnut cashew coconut pumpkin cucumber
table chair bench sofa shelf drawer cabinet door window curtain mirror lamp candle clock vase basket bucket
broom mop sponge towel pillow blanket mattress hammer pliers wrench drill saw shovel rake axe knife fork spoon
pan pot kettle toaster fridge oven jar tin box bag suitcase backpack wallet purse umbrella hat cap scarf glove
sock shoe boot shirt jacket belt zipper watch necklace bracelet earring glasses
phone keyboard mouse screen printer camera speaker radio cable plug socket battery switch transistor
resistor circuit antenna charger engine pump valve piston spring bearing pulley chain hook rope ladder fence
gate bridge tower house roof tile pipe hose car truck bus train boat plane bicycle scooter tyre
pencil pen eraser ruler notebook book envelope stamp card poster newspaper scissors stapler brush toothbrush
razor soap shampoo pill tablet syringe bandage
guitar piano drum violin trumpet flute kite doll puzzle racket
leaf tree branch root stone pebble shell feather
lung brain liver kidney skin colon eye bone
"""

EVERYDAY_NOUNS = tuple(_EVERYDAY.split())
"""Names of things that are hardly ever shown; a caption uses one where only the condition is true of the picture."""
