"""The constants of the default lung mask (lungs=pleura): the unit of each, and where its value comes from.

"Phantoms": chosen on those of ``benchmarks/lungs.py``. "Sample": on the three public scans of COVID-CT-MD.
"""

THRESHOLD_HU = -320
"""HU up to which a voxel counts as air; the limit of the tutorial that the paper cites (Zuidhof, Kaggle, 2017)."""

# resolution of the search (segmentation.py)
VOXEL_MM = 2.0  # mm, in-plane: the same Dice as on full pixels in a third of the time
SLICE_MM = 4.0  # mm, as above
COMPONENT_SHARE = 0.02  # of the lungs' volume: smaller remains of excluded gas go
BODY_WIDTH_MM = 360.0  # mm, adult chest; replaces an unknown pixel size
BODY_HEIGHT_MM = 300.0  # mm, height of a chest CT; replaces an unknown slice spacing
FINDING_SHARE = 0.02  # of the lungs: more dense tissue is reported
SOFT_TISSUE_HU = 60  # HU, muscle; caps the bright side of an edge beside a rib (morphology.py)

# gas outside the lungs (exclusions.py)
GAS_HU = -930.0  # HU, below healthy parenchyma (-910 to -800)
GAS_CONTRAST_HU = 50.0  # HU below the median of the scan's own lungs: emphysema stays
GAS_FLOOR_HU = -985.0  # HU; lungs so empty cannot be told from gas
GAS_TISSUE_HU = -500.0  # HU; surroundings above it are a wall (the usual limit of poorly aerated lung)
GAS_WALL_SHARE = 0.7  # of the surroundings: phantoms, sample (bullae lie in lung for more than 0.3)
GAS_SECTION_CM2 = 0.25  # cm2, a segmental bronchus
GAS_VOLUME_ML = 4.0  # ml, sample: trachea, main bronchi and bowel exceed it

# top of the diaphragm (exclusions.py)
DOME_SECTION_CM2 = 10.0  # cm2: a dome is as flat as that a few mm below its top, a nodule on it is not
DOME_VESSEL_MM = 4.0  # mm, radius: vessels that cross the section are ignored
DOME_MARGIN_MM = 2.0  # mm by which the section widens in the next slice
DOME_SUPPORT_SHARE = 0.9  # of the widened section rests on tissue

# bones and rays (juxtapleural.py)
BONE_HU = 200.0  # HU in means over a few pixels: cortical and cancellous rib
TISSUE_HU = 170.0  # HU: consolidation and fluid are less dense
SPINE_MM = 30.0  # mm to each side of the midline: vertebral column
HILUM_MM = 20.0  # mm: no rib is nearer to the middle of a lung
RAY_STEP_MM = 2.0  # mm, the in-plane voxel
RAY_LENGTH_MM = 160.0  # mm, half of the largest rib cage (phantoms, sample: 130)
RIB_GAP_MM = 15.0  # mm along the body: ribs run obliquely, a slice shows one in two (minimum over +-2/3)
RIB_GAP_DEGREES = 4.0  # degrees, as above
WALL_GAP_MM = 15.0  # mm, largest gap between rib and pleura
HEALTHY_GAP_MM = 4.0  # mm above the scan's usual gap: lung that touches the wall
SYMMETRY_MM = 3.0  # mm: a gap that both sides have is fat or muscle
SYMMETRY_WEIGHT = 0.3  # of the other side's gap against the side's own
BULGE_MM = 10.0  # mm: a wall farther out between rays met the shoulder blade or passed between ribs
BULGE_DEGREES = 46.0  # degrees, width of such a bulge
WALL_MARGIN_MM = 2.0  # mm, a ray step: balls at the pleura of the sample are kept to 0.95

# dents of the lungs' outline (juxtapleural.py)
DENT_MM = 3.0  # mm, the accuracy of the wall: patches at the pleura of the sample
HOLLOW_MM = 8.0  # mm, depth of a dent where the outline is hollow
DEEP_MM = 16.0  # mm, depth of any dent
DENT_AREA_CM2 = 4.0  # cm2 of the wall: phantoms (clean ones stay unchanged)
SINGLE_SLICE_MM = 10.0  # mm, the thickness that a single slice stands for
HOLLOW_HEIGHT_MM = 25.0  # mm along the body over which the outline is closed
HOLLOW_DEGREES = 30.0  # degrees, as above
INWARD = -0.6  # cosine to the outward direction: the rays between lung and spine
FRONT = -0.3  # sine towards the back; farther in front a ray must meet lung
FRONT_OUTWARD = 0.2  # cosine to the outward direction of those rays: the heart is farther in
TOP_SHARE = 0.2  # of the rays: fewer meet the trachea above the top of a lung
APEX_MM = 25.0  # mm below the top of a lung, where few ribs lie
CLOSING_MM = 12.0  # mm, width of notches and seams that are closed, as above

# the diaphragm (juxtapleural.py)
FALL_PER_MM = 0.009  # 1/mm: a dome falls by this times the squared distance (60-80 mm at 85-95 mm)
RECESS_MM = 10.0  # mm: lung so near the wall shows the recess, and so where the diaphragm ends
